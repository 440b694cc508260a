"""Executing training steps: in the arena of a plan, fast without one, and as a plain reference."""
