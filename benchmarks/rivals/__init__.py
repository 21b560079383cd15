"""The same probe fitted by others: the cells compared, and each rival timed to a gap."""
