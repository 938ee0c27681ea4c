//! Measurements, each beside what it is held against. Start with the programs: `data` (throughput of jobs, beside the same
//! work written by hand) and `control` (start-up, idle memory, submission). Nothing is shared but this page.
