"""What the gateway is told: a TOML file with overrides from the environment, checked as a whole at start."""

from gateway.config.loading import ENVIRONMENT_PREFIX, ConfigError, load_config
from gateway.config.models import (
    AcquirerSection,
    Config,
    GatewaySection,
    JournalSection,
    LogSection,
    OperationsSection,
    ReplaySection,
    Section,
    StandInSection,
    TerminalsSection,
)
from gateway.config.reference import config_reference_markdown, default_config_toml
from gateway.config.values import Address, BinRange, LogFormat, LogLevel
from gateway.core.standin import StandInMode

__all__ = [
    "ENVIRONMENT_PREFIX",
    "AcquirerSection",
    "Address",
    "BinRange",
    "Config",
    "ConfigError",
    "GatewaySection",
    "JournalSection",
    "LogFormat",
    "LogLevel",
    "LogSection",
    "OperationsSection",
    "ReplaySection",
    "Section",
    "StandInMode",
    "StandInSection",
    "TerminalsSection",
    "config_reference_markdown",
    "default_config_toml",
    "load_config",
]
