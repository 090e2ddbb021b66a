"""What the gateway is told: a TOML file with overrides from the environment, checked as a whole at start."""

from gateway.config.acquirer import AcquirerSection
from gateway.config.keys import Section
from gateway.config.lines import AcquirerTlsSection, TerminalsTlsSection, tls_client_settings, tls_server_settings
from gateway.config.loading import ENVIRONMENT_PREFIX, ConfigError, load_config
from gateway.config.models import (
    Config,
    GatewaySection,
    JournalSection,
    LogSection,
    OperationsSection,
    ReplaySection,
    StandInSection,
)
from gateway.config.reference import config_reference_markdown, default_config_toml
from gateway.config.remarks import remarks
from gateway.config.terminals import TerminalsSection
from gateway.config.values import Address, BinRange, LogFormat, LogLevel
from gateway.core.standin import StandInMode

__all__ = [
    "ENVIRONMENT_PREFIX",
    "AcquirerSection",
    "AcquirerTlsSection",
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
    "TerminalsTlsSection",
    "config_reference_markdown",
    "default_config_toml",
    "load_config",
    "remarks",
    "tls_client_settings",
    "tls_server_settings",
]
