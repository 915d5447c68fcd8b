//! The machine: what it is (`host`), what it can compute (`arithmetic`), whether it is fit to
//! measure on (`doctor`).

pub mod arithmetic;
pub mod doctor;
pub mod host;
