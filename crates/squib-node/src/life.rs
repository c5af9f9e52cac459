//! The life of a VM, and its end together with the JavaScript environment that made it.

use std::cell::RefCell;
use std::sync::Weak;

use napi::Env;

use crate::error::{Result, node_api};

/// What must end when a VM is closed, or when its JavaScript environment is.
pub(crate) trait Ends: Send + Sync {
    /// There is no JavaScript any more: ends all runs and all waits for an answer.
    fn abandon(&self);
}

thread_local! {
    /// What lives in this JavaScript environment, which has a thread of its own.
    static LIVES: RefCell<Option<Vec<Weak<dyn Ends>>>> = const { RefCell::new(None) };
}

/// Sees to it that no vCPU thread of `life` outlives the JavaScript environment for long.
pub(crate) fn end_with_environment(env: &Env, life: Weak<dyn Ends>) -> Result<()> {
    if LIVES.with_borrow(Option::is_none) {
        env.add_env_cleanup_hook((), |()| {
            let lives = LIVES.with(RefCell::take).unwrap_or_default();
            lives.iter().filter_map(Weak::upgrade).for_each(|life| life.abandon());
        })
        .map_err(|e| node_api(&e))?;
    }
    LIVES.with_borrow_mut(|lives| {
        let lives = lives.get_or_insert_default();
        lives.retain(|life| life.strong_count() > 0);
        lives.push(life);
    });
    Ok(())
}
