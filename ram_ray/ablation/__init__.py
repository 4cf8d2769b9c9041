"""The paper's ablations: tables 4 and 5 over seeds, of the pipeline's own stages."""
