//! squib for WebAssembly: the browser's binding.
