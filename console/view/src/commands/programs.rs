//! The command that lists programs.

use crate::command::Command;
use crate::render;
use crate::state::{Detail, Needs};

/// The commands of this module.
pub const COMMANDS: &[Command] = &[Command {
    name: "programs",
    needs: Needs::Nothing,
    arguments: "",
    about: "lists the image's programs, and those that run",
    details: "",
    words: &[],
    run: |context| {
        context.no_arguments()?;
        if context.state.offers() != Needs::Nothing {
            let (mut result, mut count) = (Ok(()), 0);
            let out = &mut *context.out;
            context.state.files(&mut |name, bytes| {
                count += 1;
                result = result.and_then(|()| writeln!(out, "  {name:<20} {}", render::Bytes(bytes)));
            });
            result?;
            if count == 0 {
                writeln!(context.out, "the image has no programs; `aero boot --hrt DIR` puts some in")?;
            }
        }
        Ok(render::programs(&context.state.snapshot(Detail::NoThreads), context.out)?)
    },
}];
