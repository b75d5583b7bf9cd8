//! Runs the programs by `BPF_PROG_TEST_RUN`. The resulting verdict, frame, counters, events and session state are compared
//! with those that [`wire`] and [`inner`] compute, which are written after the documents and share no code with mtd.
//!
//! A dropped frame must increase one drop counter by one and make one event; an accepted frame must change the counters, the
//! session state and one mark of the sequence window. Nothing else may change. [`harness`] checks that for every run.

mod budget;
mod chains;
mod concurrency;
mod control;
mod cut;
mod derived;
mod drops;
mod ecn;
mod events;
mod filter;
mod flips;
mod harness;
mod heard;
mod inner;
mod inner_source;
mod introduction;
mod keystream;
mod lengths;
mod leniency;
mod message;
mod neighbour;
mod outcome;
mod passes;
mod peering;
mod pins;
mod probes;
mod send;
mod send_drops;
mod shared;
mod single;
mod slots;
mod stages;
mod steering;
mod too_big;
mod translated;
mod valid;
mod window;
mod wire;
