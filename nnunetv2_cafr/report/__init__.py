"""The page of a study and its tables: patients, statistics, figures, pictures, from the scores of label maps."""
