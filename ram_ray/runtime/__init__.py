"""The run folder, stages on Ray Data, the cluster, logs and how a run ends."""
