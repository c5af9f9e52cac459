//! squib for Node.js: napi-rs conversions only.
