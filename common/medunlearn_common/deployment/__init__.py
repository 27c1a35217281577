"""What runs a party as a service: systemd units from templates, and the probe of a container."""

from medunlearn_common.deployment.units import UnitSettings, service_unit

__all__ = ["UnitSettings", "service_unit"]
