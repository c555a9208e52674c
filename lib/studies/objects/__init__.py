"""ex_dino1 to ex_dino4: slots on frozen tokens."""
