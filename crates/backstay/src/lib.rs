//! Facade for programs that embed the engine.
