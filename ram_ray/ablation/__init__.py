"""Tables of several runs over seeds: the paper's tables 4 and 5, heads, and StableRep, of the pipeline's own stages."""
