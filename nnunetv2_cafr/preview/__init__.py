"""All studies of a folder of label maps on one page: slices with contours and level names, measures, doubts first."""

PAGE_FILE = "preview.html"
PICTURES = "preview"  # the folder of a PNG for each study
