"""Names the fixture modules; nothing else."""

pytest_plugins = ["fixtures.cluster", "fixtures.fleets", "fixtures.bootstorm", "fixtures.slo"]
