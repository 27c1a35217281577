"""The coordinator as a service: supervisor, gateway, control interface, durable registry."""
