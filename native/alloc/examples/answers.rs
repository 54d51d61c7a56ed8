//! Answers cases of the differential tests: one JSON case a line on standard input, one answer a line on standard output.

use std::io::{self, BufRead, Write};

fn main() -> io::Result<()> {
    let mut output = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        writeln!(output, "{}", nvdra_alloc::cases::answer(&line?))?;
        output.flush()?;
    }
    Ok(())
}
