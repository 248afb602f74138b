/* A provider in plain C: it hands each envelope to a worker beside the program. A provider that goes further away differs
 * in `run` alone, which runs on a thread of its own for each task. */

#include "outboard_plugin.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum phase { QUEUED, RUNNING, ENDED };

struct task {
    struct provider *provider;
    char *id, *key, *envelope; /* JSON, as it came; the id is the attempt. */
    enum phase phase;
    int stop;
    char **events;
    size_t count;
    char *result; /* JSON, once it has ended. */
    struct task *next;
};

/* Tasks are kept to the end: whoever asks late still gets the answer. */
struct provider {
    const OutboardHost *host;
    char *per_hour;
    pthread_mutex_t lock; /* Guards all that follows, and all tasks. */
    pthread_cond_t changed;
    struct task *tasks;
    int threads;
};

/* ---- JSON ---- */

static const char *skip_string(const char *at, const char *end) {
    for (at++; at < end && *at != '"'; at++)
        if (*at == '\\') at++;
    return at < end ? at + 1 : end;
}

static const char *skip_space(const char *at, const char *end) {
    while (at < end && strchr(" \t\r\n", *at)) at++;
    return at;
}

static const char *skip_value(const char *at, const char *end) {
    int depth = 0;
    while (at < end) {
        if (*at == '"') {
            at = skip_string(at, end);
            if (depth == 0) return at;
            continue;
        }
        if (depth == 0 && strchr(",}] \t\r\n", *at)) return at;
        if (strchr("{[", *at)) depth++;
        if (strchr("}]", *at) && --depth == 0) return at + 1;
        at++;
    }
    return end;
}

/* Calls `see` for each field of an object, with its name and its value as they stand; 0 where it isn't one. */
static int each_field(OutboardBytes json, void (*see)(void *, OutboardBytes name, OutboardBytes value), void *user) {
    const char *at = (const char *)json.data, *end = at + json.len;
    at = skip_space(at, end);
    if (at == end || *at != '{') return 0;
    for (at = skip_space(at + 1, end); at < end && *at == '"'; at = skip_space(at, end)) {
        const char *name = at + 1, *name_end = skip_string(at, end) - 1;
        at = skip_space(name_end + 1, end);
        if (at >= end || *at != ':') return 0;
        const char *value = skip_space(at + 1, end);
        at = skip_value(value, end);
        see(user, (OutboardBytes){(const uint8_t *)name, (size_t)(name_end - name)},
            (OutboardBytes){(const uint8_t *)value, (size_t)(at - value)});
        at = skip_space(at, end);
        if (at < end && *at == ',') at++;
    }
    return at < end && *at == '}';
}

struct wanted {
    const char *name;
    OutboardBytes value;
};

static int is(OutboardBytes bytes, const char *text) {
    return bytes.len == strlen(text) && memcmp(bytes.data, text, bytes.len) == 0;
}

static void see_wanted(void *user, OutboardBytes name, OutboardBytes value) {
    struct wanted *wanted = user;
    if (is(name, wanted->name)) wanted->value = value;
}

/* A field as a string of its own, JSON as it stands; null where there is none. */
static char *field(OutboardBytes json, const char *name) {
    struct wanted wanted = {name, {NULL, 0}};
    if (!each_field(json, see_wanted, &wanted) || !wanted.value.data) return NULL;
    return strndup((const char *)wanted.value.data, wanted.value.len);
}

/* Gives text to the host, which gives it back to `give_back`. */
static int give(OutboardBytes *out, char *text) {
    *out = (OutboardBytes){(const uint8_t *)text, text ? strlen(text) : 0};
    return text ? 0 : 1;
}

/* Gives `before value after`. */
static int give_parts(OutboardBytes *out, const char *before, const char *value, const char *after) {
    char *text = malloc(strlen(before) + strlen(value) + strlen(after) + 1);
    if (text) strcpy(stpcpy(stpcpy(text, before), value), after);
    return give(out, text);
}

static int fail(OutboardBytes *out, const char *kind, const char *retry, const char *message) {
    char *text = NULL;
    size_t size;
    FILE *file = open_memstream(&text, &size);
    if (!file) return give(out, NULL);
    fprintf(file, "{\"error\":{\"kind\":\"%s\",\"retry\":%s,\"message\":\"%s\"}}", kind, retry, message);
    fclose(file);
    return give(out, text);
}

/* ---- Tasks ---- */

static size_t revision(const struct task *task) {
    return 1 + (task->phase != QUEUED) + task->count + (task->phase == ENDED);
}

/* With the lock held. */
static struct task *find(struct provider *provider, const char *id) {
    struct task *task = provider->tasks;
    while (task && strcmp(task->id, id) != 0) task = task->next;
    return task;
}

/* Told by the worker; another number than 0 asks it to stop. */
static int32_t on_event(void *user, OutboardBytes event) {
    struct task *task = user;
    struct provider *provider = task->provider;
    pthread_mutex_lock(&provider->lock);
    if (event.len > 0) {
        char **events = realloc(task->events, (task->count + 1) * sizeof *events);
        char *copy = strndup((const char *)event.data, event.len);
        if (events) task->events = events;
        if (events && copy) {
            task->phase = RUNNING;
            task->events[task->count++] = copy;
            pthread_cond_broadcast(&provider->changed);
        } else {
            free(copy);
        }
    }
    int32_t stop = task->stop;
    pthread_mutex_unlock(&provider->lock);
    return stop;
}

static void *run(void *user) {
    struct task *task = user;
    struct provider *provider = task->provider;
    const OutboardHost *host = provider->host;
    OutboardBytes envelope = {(const uint8_t *)task->envelope, strlen(task->envelope)}, out = {NULL, 0};
    int32_t status = host->run_worker(host->context, envelope, on_event, task, &out);
    char *result = NULL;
    if (status == 0) {
        result = strndup((const char *)out.data, out.len);
    } else {
        size_t size;
        char *error = field(out, "error");
        FILE *file = open_memstream(&result, &size);
        if (file) {
            fprintf(file, "{\"protocol\":1,\"key\":%s,\"attempt\":%s,\"ended\":{\"failed\":%s},\"timings\":{}}", task->key,
                    task->id, error ? error : "null");
            fclose(file);
        }
        free(error);
    }
    host->release(host->context, out);
    pthread_mutex_lock(&provider->lock);
    task->result = result;
    task->phase = ENDED;
    provider->threads--;
    pthread_cond_broadcast(&provider->changed);
    pthread_mutex_unlock(&provider->lock);
    return NULL;
}

static int submit(struct provider *provider, OutboardBytes request, OutboardBytes *out) {
    struct task *task = calloc(1, sizeof *task), *known;
    if (!task) return 1;
    task->provider = provider;
    task->id = field(request, "attempt");
    task->key = field(request, "key");
    task->envelope = field(request, "envelope");
    int is_whole = task->id && task->key && task->envelope, is_new = 0, is_started = 0;
    pthread_t thread;
    if (is_whole) {
        pthread_mutex_lock(&provider->lock);
        known = find(provider, task->id);
        is_new = !known;
        if (is_new && pthread_create(&thread, NULL, run, task) == 0) {
            is_started = 1;
            pthread_detach(thread);
            provider->threads++;
            task->next = provider->tasks;
            provider->tasks = task;
        }
        pthread_mutex_unlock(&provider->lock);
    }
    int status;
    if (!is_whole)
        status = fail(out, "corrupt_payload", "\"never\"", "attempt, key or envelope is missing");
    else if (is_new && !is_started)
        status = fail(out, "unavailable", "\"other\"", "no thread can be started");
    else
        status = give_parts(out, "{\"ok\":", task->id, "}");
    if (!is_started) {
        free(task->id), free(task->key), free(task->envelope), free(task);
    }
    return status;
}

/* Waits, with the lock held, until the revision is larger than `seen`, or the task has ended where that is asked for. */
static void await(struct provider *provider, const struct task *task, size_t seen, int ended, long limit_ms) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += limit_ms / 1000;
    until.tv_nsec += limit_ms % 1000 * 1000000;
    if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
    while (ended ? task->phase != ENDED : revision(task) <= seen)
        if (pthread_cond_timedwait(&provider->changed, &provider->lock, &until) != 0) return;
}

static char *state(const struct task *task, size_t seen) {
    static const char *const phases[] = {"\"queued\"", "\"running\""};
    char *text = NULL;
    size_t size, from = seen > 1 ? seen - 1 : 0;
    FILE *file = open_memstream(&text, &size);
    if (!file) return NULL;
    fprintf(file, "{\"ok\":{\"revision\":%zu,\"phase\":", revision(task));
    if (task->phase == ENDED)
        fprintf(file, "{\"ended\":%s}", task->result ? task->result : "null");
    else
        fputs(phases[task->phase], file);
    fputs(",\"events\":[", file);
    /* The first revision is that of the start; one from elsewhere has seen nothing. */
    if (seen > revision(task)) from = 0;
    for (size_t i = from > 1 ? from - 1 : 0, first = i; i < task->count; i++)
        fprintf(file, "%s%s", i > first ? "," : "", task->events[i]);
    fputs("]}}", file);
    fclose(file);
    return text;
}

static int on_task(struct provider *provider, OutboardBytes request, int is_cancel, OutboardBytes *out) {
    char *id = field(request, "id"), *seen = field(request, "seen"), *limit = field(request, "limit_ms");
    int status;
    pthread_mutex_lock(&provider->lock);
    struct task *task = id ? find(provider, id) : NULL;
    if (!task) {
        status = fail(out, "not_found", "\"never\"", "the provider knows no such task");
    } else if (is_cancel) {
        task->stop = 1;
        await(provider, task, 0, 1, 20000);
        status = task->phase == ENDED ? give(out, strdup("{\"ok\":\"stopped\"}"))
                                      : fail(out, "timeout", "{\"same\":{\"after\":null}}", "the task has not ended yet");
    } else {
        size_t known = seen ? strtoull(seen, NULL, 10) : 0;
        await(provider, task, known <= revision(task) ? known : 0, 0, limit ? strtol(limit, NULL, 10) : 0);
        status = give(out, state(task, known));
    }
    pthread_mutex_unlock(&provider->lock);
    free(id), free(seen), free(limit);
    return status;
}

static int list(struct provider *provider, OutboardBytes *out) {
    char *text = NULL;
    size_t size;
    FILE *file = open_memstream(&text, &size);
    if (!file) return give(out, NULL);
    const char *comma = "";
    fputs("{\"ok\":[", file);
    pthread_mutex_lock(&provider->lock);
    for (struct task *task = provider->tasks; task; task = task->next) {
        if (task->phase == ENDED) continue;
        fprintf(file, "%s{\"id\":%s,\"key\":%s,\"running\":%s}", comma, task->id, task->key,
                task->phase == RUNNING ? "true" : "false");
        comma = ",";
    }
    pthread_mutex_unlock(&provider->lock);
    fputs("]}", file);
    fclose(file);
    return give(out, text);
}

/* ---- The table ---- */

static void see_unknown(void *user, OutboardBytes name, OutboardBytes value) {
    (void)value;
    if (!is(name, "per_hour_nano_usd")) *(int *)user = 1;
}

static void *create(OutboardBytes config, const OutboardHost *host, OutboardBytes *out) {
    int unknown = 0;
    if (!each_field(config, see_unknown, &unknown) || unknown) {
        fail(out, "invalid_config", "\"never\"", "the only key of `config` is per_hour_nano_usd");
        return NULL;
    }
    struct provider *provider = calloc(1, sizeof *provider);
    if (!provider) return NULL;
    provider->host = host;
    provider->per_hour = field(config, "per_hour_nano_usd");
    pthread_mutex_init(&provider->lock, NULL);
    pthread_cond_init(&provider->changed, NULL);
    return provider;
}

static int32_t call(void *self, OutboardBytes operation, OutboardBytes request, OutboardBytes *out) {
    struct provider *provider = self;
    if (is(operation, "info"))
        return give(out, strdup("{\"ok\":{\"kind\":\"beside\",\"device\":\"a worker beside this program\"}}"));
    if (is(operation, "capabilities"))
        return give(out, strdup("{\"ok\":{\"cancels\":true,\"lists\":true,\"reports_progress\":true,"
                                "\"max_concurrent_tasks\":1}}"));
    if (is(operation, "price"))
        return give_parts(out, "{\"ok\":{\"per_task_nano_usd\":0,\"per_hour_nano_usd\":",
                          provider->per_hour ? provider->per_hour : "0",
                          ",\"as_of\":\"as configured\",\"source\":\"per_hour_nano_usd\"}}");
    if (is(operation, "health")) return give(out, strdup("{\"ok\":\"ready\"}"));
    if (is(operation, "submit")) return submit(provider, request, out);
    if (is(operation, "wait")) return on_task(provider, request, 0, out);
    if (is(operation, "cancel")) return on_task(provider, request, 1, out);
    if (is(operation, "list")) return list(provider, out);
    return fail(out, "unsupported", "\"other\"", "the plugin knows no such operation");
}

static void give_back(OutboardBytes bytes) {
    free((void *)bytes.data);
}

static void destroy(void *self) {
    struct provider *provider = self;
    pthread_mutex_lock(&provider->lock);
    for (struct task *task = provider->tasks; task; task = task->next) task->stop = 1;
    while (provider->threads > 0) pthread_cond_wait(&provider->changed, &provider->lock);
    pthread_mutex_unlock(&provider->lock);
    for (struct task *task = provider->tasks, *next; task; task = next) {
        next = task->next;
        for (size_t i = 0; i < task->count; i++) free(task->events[i]);
        free(task->id), free(task->key), free(task->envelope), free(task->events), free(task->result), free(task);
    }
    pthread_cond_destroy(&provider->changed);
    pthread_mutex_destroy(&provider->lock);
    free(provider->per_hour);
    free(provider);
}

const OutboardPlugin *outboard_plugin(void) {
    static const OutboardPlugin plugin = {
        .size = sizeof(OutboardPlugin),
        .major = OUTBOARD_PLUGIN_MAJOR,
        .minor = OUTBOARD_PLUGIN_MINOR,
        .create = create,
        .call = call,
        .free = give_back,
        .destroy = destroy,
    };
    return &plugin;
}
