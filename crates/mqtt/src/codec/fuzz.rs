//! The bodies of the fuzz targets in `fuzz/`, as plain functions, so that an ordinary test replays the corpus.
