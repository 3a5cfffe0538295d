"""The commands: options -> Request, and printing the result. No other folder imports this one."""
