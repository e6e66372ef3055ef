//! Folders and files: what is captured of them, and what a restore makes of that, whatever is in its way.

mod attacks;
mod beside;
mod excludes;
mod kept;
mod killed;
mod kinds;
mod links;
mod partial;
mod power;
mod safety;
mod spares;
mod support;
mod users;
mod walk;
mod walk_scale;
