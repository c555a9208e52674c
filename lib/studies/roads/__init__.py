"""streethazards: segmentation and anomalies on the road."""
