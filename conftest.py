"""Names the fixture modules; nothing else. (pytester is for the plugin's own tests.)"""

pytest_plugins = ["fixtures.cluster", "fixtures.edits", "fixtures.fleets", "fixtures.bootstorm", "fixtures.deployment", "fixtures.latency", "fixtures.zones", "fixtures.migration", "fixtures.migration_load", "fixtures.upgrade", "fixtures.slo", "pytester"]
