"""Label maps of a spine in mm, ml and degrees: per level, and per study; documentation/measurements.md defines them.

Plain numpy, scipy and SimpleITK over label maps of any origin. A number that the image cannot give is left empty with
the reason: a structure cut by the image's edge, too few voxels, slices too oblique.
"""
