"""Workers for the demo with one deliberate fault each: a proof that cannot fail would be none."""
