//! Rules of the code and of the documents, run as tests.

mod architecture;
mod golden;
