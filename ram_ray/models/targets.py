"""What a training target holds, for those who make targets without torch and those who read them."""

UNKNOWN = 2  # beside 0 and 1: a tag of which nothing is learnt
