//! `gatewatch unload`: ends the counting that outlives the agent.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use gatewatch_capture::{
    network::instance_directory,
    pin::{instances, unload},
};
use gatewatch_config::Config;

/// Its arguments.
#[derive(clap::Args)]
pub struct Args {
    /// Where agents pin, as `network.pin_dir` says
    #[arg(long, value_name = "DIRECTORY")]
    pin_dir: Option<PathBuf>,
    /// What was pinned for other network namespaces too
    #[arg(long)]
    all: bool,
}

/// Removes what is pinned, and says what that was.
///
/// # Errors
/// When something cannot be removed.
pub fn run(args: &Args) -> Result<()> {
    if let Some(who) = crate::network::lock::holder() {
        bail!(
            "an agent ({who}) counts in this network namespace: stop it first, with SIGINT, which removes everything"
        )
    }
    let root = args.pin_dir.clone().unwrap_or_else(|| Config::default().network.pin_dir);
    let ours = instance_directory(&root);
    let found = instances(&root).with_context(|| format!("cannot read {}", root.display()))?;
    let mut others = 0;
    let mut removed = 0;
    for instance in &found {
        if instance.directory != ours && !args.all {
            others += 1;
            continue;
        }
        unload(instance).with_context(|| format!("cannot remove {}", instance.directory.display()))?;
        removed += 1;
        crate::say(&format!(
            "{}: removed, with {} attachments",
            instance.directory.display(),
            instance.live_links
        ));
    }
    if removed == 0 {
        crate::say(&format!("nothing is pinned in {} for this network namespace", root.display()));
    }
    if others > 0 {
        crate::say(&format!(
            "{others} other network namespaces have something there: --all removes that too"
        ));
    }
    Ok(())
}
