//! Small guests of squib's own: bare-metal programs for tests, benches and the demo.
