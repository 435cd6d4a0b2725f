//! Frames over an authenticated connection between the machines of one cluster.
