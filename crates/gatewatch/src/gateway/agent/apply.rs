//! A new configuration, taken between two turns: nothing is counted anew, nothing twice, nothing lost.

use std::sync::atomic::Ordering;

use gatewatch_capture::{clock, nginx::Attachment};
use gatewatch_config::{Change, Config, Detail};
use gatewatch_export::log::{self, Level};
use gatewatch_insight::ledger::Stage;

use super::{Agent, START, watch_settings};
use crate::{
    gateway::{folding::Memos, prepared::Prepared, proof::Watched, reload::News, watch::Watcher},
    settings,
};

/// Changes that are told one by one.
const TOLD: usize = 20;

impl Agent {
    /// What has become of the configuration's file.
    pub(super) fn take_news(&mut self) {
        while let Ok(news) = self.news.try_recv() {
            match news {
                News::New(prepared) => self.apply(*prepared),
                News::Refused(problems) => {
                    self.reloads.refused += 1;
                    self.say_refused(&problems);
                }
                News::StillRefused(problems) => self.say_refused(&problems),
                News::Unchanged => {
                    self.reloads.unchanged += 1;
                    self.folding.say(Level::Info, "configuration read: the same as before");
                }
            }
        }
    }

    fn say_refused(&mut self, problems: &[String]) {
        self.folding.say(Level::Error, "the new configuration is refused, the one in use stays:");
        for problem in problems {
            self.folding.say(Level::Error, &format!("configuration refused: {problem}"));
        }
    }

    fn apply(&mut self, prepared: Prepared) {
        let Prepared { config, changes, traffic, masker, filter } = prepared;
        let before = self.live.now();
        let changed = |key: &str| changes.iter().any(|change| change.is_of(key));
        self.say_changes(&changes, &before, &config);

        self.folding.log.set(settings::log(&config));
        self.window.set_interval(config.stats.interval);
        self.folding.traffic.configure(traffic);
        self.folding.masker = masker;
        // What was masked by other rules.
        self.folding.memos = Memos::default();
        self.folding.filter = filter;
        self.meeting.offer_metrics(config.metrics.enabled);
        if changed("gateway.lua_phases") {
            // Else it stays as SIGUSR2 has left it.
            self.lua_wanted.store(config.gateway.lua_phases, Ordering::Relaxed);
        }
        if changed("gateway.detail") {
            self.set_detail(config.gateway.detail);
        }
        if ["monitoring.enabled", "gateway.process_name", "gateway.debug_dir"].into_iter().any(changed) {
            self.watch_anew(&before, &config);
        }
        if changed("gateway.names") || changed("gateway.process_name") {
            let rules = settings::instance_names(&config);
            let (fleet, traffic) = (&mut self.folding.fleet, &mut self.folding.traffic);
            for text in fleet.rename(rules, |name| traffic.gateway(name)) {
                self.folding.say(Level::Info, &text);
            }
        }
        let known = before.not_yet_effective();
        for key in config.not_yet_effective().into_iter().filter(|key| !known.contains(key)) {
            let text = format!("`{key}` is understood, but this version does nothing with it yet");
            self.folding.say(Level::Warn, &text);
        }
        self.reloads.applied += 1;
        self.reloads.last_applied_ns = clock::realtime();
        self.live.set(config);
    }

    /// Told by the wordier of both configurations: what ends the lines is not left out of them.
    fn say_changes(&mut self, changes: &[Change], before: &Config, config: &Config) {
        let (old, new) = (settings::log(before), settings::log(config));
        self.folding.log.set(log::Settings { level: old.level.min(new.level), ..new });
        for change in changes.iter().take(TOLD) {
            let when = if change.waits_for_next_start() { " (takes effect at the next start)" } else { "" };
            self.folding.say(Level::Info, &format!("configuration changed: {change}{when}"));
        }
        if let Some(more @ 1..) = changes.len().checked_sub(TOLD) {
            self.folding.say(Level::Info, &format!("configuration changed: and {more} more"));
        }
    }

    /// Probes the start of requests too, or no longer. The probe that counts them stays.
    fn set_detail(&mut self, detail: Detail) {
        self.lean = detail == Detail::Lean;
        self.folding.fleet.set_counts_starts(!self.lean);
        if self.lean {
            let mut starts = Vec::new();
            for watched in self.watched.iter_mut().flatten() {
                starts.extend(watched.attachment().and_then(|(_, attachment)| attachment.split_start()));
            }
            self.end(starts);
        } else {
            // Probes of before may still be about to end: two of them would note each start twice.
            self.ending = true;
        }
    }

    fn end(&mut self, attachments: Vec<Attachment>) {
        self.reaper.end(attachments);
        self.ending = true;
    }

    /// What had to wait until probes have ended.
    pub(super) fn settle(&mut self) {
        if !self.ending || !self.reaper.is_done() {
            return;
        }
        self.ending = false;
        self.take_leave();
        for (binary, file, process) in std::mem::take(&mut self.postponed) {
            self.attach(&binary, file, &process);
        }
        if !self.lean {
            self.probe_starts();
        }
    }

    fn probe_starts(&mut self) {
        for (id, watched) in (0u16..).zip(&mut self.watched) {
            let Some(watched) = watched else { continue };
            let Some(start) = watched.binary.functions.get(START).copied() else { continue };
            let Some((path, attachment)) = watched.attachment() else { continue };
            if let Err(error) = self.probe.attach_start(attachment, &path, start, id) {
                self.folding.say(Level::Error, &error.to_string());
            }
        }
    }

    /// Looks for gateways by other settings, or not at all. What is probed stays so until it is known to be none of
    /// ours any more.
    fn watch_anew(&mut self, before: &Config, config: &Config) {
        let names = settings::process_names(config);
        self.known_names.clone_from(&names);
        self.folding.fleet.set_names(names);
        // What is still a gateway's is found again.
        self.postponed.clear();
        match Watcher::start(watch_settings(config, &self.folding.root)) {
            Ok(watcher) => self.watcher = watcher,
            Err(error) => {
                let text = format!("new gateways are not looked for: a thread cannot be started ({error})");
                self.folding.say(Level::Error, &text);
            }
        }
        match (before.monitoring.enabled, config.monitoring.enabled) {
            (_, false) => {
                self.unconfirmed.clear();
                self.lua.let_go(&mut self.probe, &mut self.reaper);
                self.let_go(|_| true);
                self.folding.fleet.set_off(true);
                self.folding.say(Level::Warn, "no gateway is watched any more; what they serve meanwhile is counted as lost by their own counts, where those can be read");
            }
            (false, true) => {
                self.folding.fleet.set_off(false);
                self.folding.say(Level::Info, "gateways are watched again");
            }
            (true, true) => {
                self.unconfirmed = self.watched.iter().flatten().map(|watched| watched.binary.key).collect();
            }
        }
    }

    /// Binaries that no process of a gateway's name runs, now that all were looked at by the new settings.
    pub(super) fn let_go_of_unconfirmed(&mut self) {
        if self.unconfirmed.is_empty() {
            return;
        }
        let keys = std::mem::take(&mut self.unconfirmed);
        let layouts = self.let_go(|watched| keys.contains(&watched.binary.key));
        self.folding.fleet.abandon(&layouts);
        if !layouts.is_empty() {
            self.folding.say(Level::Info, "a gateway is none by the new configuration: let go");
        }
    }

    /// Begins to detach from some binaries; their layouts' numbers.
    pub(super) fn let_go(&mut self, which: impl Fn(&Watched) -> bool) -> Vec<u16> {
        let (mut layouts, mut attachments) = (Vec::new(), Vec::new());
        for (id, watched) in (0u16..).zip(&mut self.watched) {
            if let Some(watched) = watched.as_mut().filter(|watched| which(watched))
                && let Some(attachment) = watched.detach()
            {
                attachments.push(attachment);
                layouts.push(id);
            }
        }
        if !attachments.is_empty() {
            self.end(attachments);
        }
        layouts
    }

    /// Binaries whose probes have ended: what they have handed over is reported, what their workers counted is kept,
    /// and their rows are free. A row that went on would hold starts whose end nobody saw.
    fn take_leave(&mut self) {
        if !self.watched.iter().flatten().any(Watched::is_detached) {
            return;
        }
        while self.drain() > 0 {}
        for (row, worker) in self.probe.workers() {
            let layout = usize::try_from(worker.layout).unwrap_or(usize::MAX);
            if !self.watched.get(layout).and_then(Option::as_ref).is_some_and(Watched::is_detached) {
                continue;
            }
            if !self.folding.fleet.has(row) {
                self.folding.join(row, &worker, &self.watched);
            }
            self.folding.fleet.part(row, &worker, || self.probe.overflow(row));
            if let Err(error) = self.probe.release_worker(row, &worker) {
                self.folding.say(Level::Error, &error.to_string());
            }
        }
        for place in &mut self.watched {
            if let Some(watched) = place.take_if(|watched| watched.is_detached()) {
                // They waited for a proof that will not come.
                self.folding.ledger.lose(Stage::Decode, "layout_unproven", watched.held());
            }
        }
    }
}
