/* The interface of Outboard's plugins, version 1.0. Made from crates/plugin/src/abi.rs.
 *
 * A plugin exports `outboard_plugin`, see the end of this file. `outboard plugin new NAME --lang c` makes one
 * that works, `outboard plugin check PATH` says what is wrong with one. */

#ifndef OUTBOARD_PLUGIN_H
#define OUTBOARD_PLUGIN_H

#include <stddef.h>
#include <stdint.h>

#define OUTBOARD_PLUGIN_MAJOR 1
#define OUTBOARD_PLUGIN_MINOR 0


// Bytes that somebody else owns.
typedef struct OutboardBytes {
  // The first byte; may be null where there are none.
  const uint8_t *data;
  // How many there are.
  size_t len;
} OutboardBytes;

// Told each event of [`Host::run_worker`], on the thread that called it.
typedef int32_t (*OutboardOnEvent)(void *user, struct OutboardBytes event);

// What a host offers a plugin.
//
// All functions may be called from any thread and at any time between `create` and the return of `destroy`. Each takes
// `context` first. Those that give bytes return 0, or another number where `out` holds an error instead: JSON, as in an
// answer of `call`. Either way `out` is given back by `release`, once.
typedef struct OutboardHost {
  // Bytes of this table.
  size_t size;
  // The host's version.
  uint32_t major;
  // The host's version.
  uint32_t minor;
  // Goes first into each function.
  void *context;
  // Writes a line to the program's log: level 1 error, 2 warning, 3 information, 4 debugging.
  void (*log)(void *context, int32_t level, struct OutboardBytes message);
  // Whether the store has the blob of a digest (64 hexadecimal digits, BLAKE3): 1 or 0.
  int32_t (*blob_has)(void *context, struct OutboardBytes digest);
  // A blob of the store. Its bytes don't change, and stay where they are until they are released.
  int32_t (*blob_get)(void *context, struct OutboardBytes digest, struct OutboardBytes *out);
  // Puts a blob into the store; `out` is its digest.
  int32_t (*blob_put)(void *context, struct OutboardBytes blob, struct OutboardBytes *out);
  // Runs the envelope of a `submit` in an `outboard worker --stdio` over the program's store, and returns when it has
  // ended; `out` is its result. The envelopes of a provider run one after another.
  //
  // `on_event` is told each event, as JSON, and, with no bytes, a few times a second besides: it asks for the end by
  // returning another number than 0. Training then ends after the batch, with a checkpoint. `user` goes first into it.
  int32_t (*run_worker)(void *context,
                        struct OutboardBytes envelope,
                        OutboardOnEvent on_event,
                        void *user,
                        struct OutboardBytes *out);
  // Gives back what a function of this table gave.
  void (*release)(void *context, struct OutboardBytes bytes);
} OutboardHost;

// What a plugin offers its host.
//
// The host calls from threads of its own that may block, several at a time, and gives up on a call that takes longer
// than its deadline. Nothing may be thrown or unwound out of a function. A plugin is never unloaded.
typedef struct OutboardPlugin {
  // Bytes of this table.
  size_t size;
  // The version that the plugin was built for.
  uint32_t major;
  // The version that the plugin was built for.
  uint32_t minor;
  // Makes a provider of `config`, the JSON object of the user's configuration. `host` lives until `destroy` has
  // returned. `out` holds the error where the provider is null; the host gives it to `free`.
  void *(*create)(struct OutboardBytes config, const struct OutboardHost *host, struct OutboardBytes *out);
  // Answers an operation. Returns 0, or another number where there is no answer. `request` and `out` are JSON; unknown
  // fields are to be ignored, and those with a question mark may be left out. The host gives the answer to `free`. It
  // is `{"ok": ANSWER}`, or `{"error": {"kind": KIND, "retry": RETRY, "message": "One sentence", "hint"?: "What to try"}}`
  // with a kind and a retry of docs/plugins.md, such as `"unavailable"` and `{"same": {"after": null}}`. An operation
  // that the plugin doesn't know is an error of kind `"unsupported"` and retry `"other"`.
  //
  // ```text
  // info          {} -> {"kind": "ssh", "device": "in words", "region"?: "eu"}
  // capabilities  {} -> {"cancels"?: true, "lists"?: true, "reports_progress"?: true, "max_concurrent_tasks"?: 1,
  //                      "max_task_ms"?: 900000, "max_payload_bytes"?: N, "operations"?: ["train", "evaluate", "predict"],
  //                      "layers"?: [..]}; `"describe"` too where its tasks can tell what their place is like
  // price         {} -> {"per_task_nano_usd": 0, "per_hour_nano_usd": 0, "granularity_ms"?: 0, "overhead_ms"?: 0,
  //                      "as_of": "2026-11-24", "source": "where it was found"}; an unknown price is an error
  // health        {} -> "ready" or {"unavailable": "why, and what to do"}
  // submit        {"attempt": "..", "key": "..", "envelope": {..}} -> "ID"; at once. The same attempt again gives the
  //                      same id and runs once
  // wait          {"id": "ID", "seen": 0, "limit_ms": 10000} -> {"revision": 1, "phase": PHASE, "events": [EVENT, ..],
  //                      "billed_ms"?: N}; as soon as the revision is larger than `seen`, at the latest after the limit,
  //                      with the events since then. PHASE is "queued", "running" or {"ended": RESULT}. An unknown id
  //                      is an error of kind "not_found"
  // cancel        {"id": "ID"} -> "stopped" once nothing runs any more, or {"still_billed_ms": N}
  // list          {} -> [{"id": "ID", "key": "..", "running": true}, ..], the tasks that have not ended
  // ```
  int32_t (*call)(void *provider,
                  struct OutboardBytes operation,
                  struct OutboardBytes request,
                  struct OutboardBytes *out);
  // Takes back what `create` or `call` gave in `out`.
  void (*free)(struct OutboardBytes bytes);
  // Ends a provider. No call runs then, and none comes after it.
  void (*destroy)(void *provider);
} OutboardPlugin;

#endif  /* OUTBOARD_PLUGIN_H */

/* The one symbol of a plugin. The table lives for ever. */
#if defined(_WIN32)
__declspec(dllexport)
#else
__attribute__((visibility("default")))
#endif
const OutboardPlugin *outboard_plugin(void);
