"""The seeded simulation of the core: outages, crashes, clocks and operators as scripts that replay and shrink."""
