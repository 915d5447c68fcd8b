//! The machine: its identity (`host`), its peak arithmetic (`arithmetic`), and whether it is fit to
//! measure on (`doctor`).

pub mod arithmetic;
pub mod doctor;
pub mod host;
