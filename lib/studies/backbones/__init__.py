"""backbone_comparison: pretraining objectives, metal and rubber."""
