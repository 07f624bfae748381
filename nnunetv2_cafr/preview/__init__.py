"""All studies of a folder of label maps on one page: slices with contours and level names, measures, doubts first."""
