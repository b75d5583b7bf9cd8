//! The programs through `BPF_PROG_TEST_RUN`: frames go in, and verdict, frame, counters, events and session state that
//! come out are compared with what [`wire`] and [`inner`] say, which are written against the documents and share no code
//! with mtd.
//!
//! A frame that is dropped must move one drop counter by one, make one event, and nothing else; an accepted one must
//! move the counters, the session state and one mark of the sequence window, and nothing else. [`harness`] checks that
//! for every single run.

mod budget;
mod chains;
mod concurrency;
mod control;
mod derived;
mod drops;
mod ecn;
mod events;
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
mod send;
mod send_drops;
mod shared;
mod slots;
mod stages;
mod steering;
mod too_big;
mod translated;
mod valid;
mod window;
mod wire;
