"""Training on many devices: how a workload is split, what the devices exchange, and what that costs.

`anatomy` finds the repeated blocks of a network, `plan` states a split, `shard` gives the ops of one device, `cluster`
and `collectives` price the communication, `memory` counts the bytes of one device, `step` puts the step together and
`search` chooses a split. Imports the other files of `cost`, and `trace` and below.
"""
