"""The command `ram-ray`, a file for each command."""
