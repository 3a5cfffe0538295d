"""Training SimpleNet and AlexNet on CIFAR-10 under a meter, and the run of Table 4.0.1 of the thesis."""
