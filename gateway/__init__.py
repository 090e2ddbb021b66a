"""The gateway: core decides, journal remembers, terminals hear, acquirers call, operations show and steer."""
