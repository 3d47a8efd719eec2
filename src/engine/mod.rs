//! The block-diffusion language model engine: readable alone.
