//! squib's own CPU as a backend: software MMU, block cache, interpreter.
