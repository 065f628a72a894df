"""Power loss, failing disks, kills, flipped bits, and mutants that each of these must catch."""
