"""A week over metered links: real stores, real sessions and gates, a real control plane, virtual time (ADR 24)."""
