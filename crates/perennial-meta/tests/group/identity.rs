//! Members that must not take part.
