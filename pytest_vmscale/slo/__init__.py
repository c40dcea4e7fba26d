"""Service level objectives: reference profiles, thresholds and verdicts. Reads the model; never talks to a cluster."""
