//! Wires the parts in floor order and stops them in reverse.
