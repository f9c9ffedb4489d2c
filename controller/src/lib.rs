//! The controller and the program fleet.
