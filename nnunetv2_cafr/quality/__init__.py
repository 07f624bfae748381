"""Quality control of an nnU-Net raw data set: reads every voxel, changes nothing, writes a page and a table."""
