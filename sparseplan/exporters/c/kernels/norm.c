/* Norms and softmax. Statistics of a row are taken anew whenever they are needed: no bytes are planned for them. */

static void sp_statistics(const sp_view *x, uint32_t b, uint32_t first, uint32_t n, float eps, float *mean,
                          float *scale) {
    float total = 0.0f;
    uint32_t i = first, left = n, j;
    *mean = sp_sum(x, first, n, b) / (float)n;
    while (left) {
        sp_seg s = sp_at(x, b, i);
        uint32_t m = sp_min(sp_min(left, 64u), s.run);
        float part = 0.0f;
        for (j = 0; j < m; j++) {
            float d = sp_ld(x, &s, j) - *mean;
            part += d * d;
        }
        total += part;
        i += m;
        left -= m;
    }
    *scale = 1.0f / sqrtf(total / (float)n + eps);
}

/* Entry of the parameters for element e: that within its row, or one for each n[2] elements. */
static uint32_t sp_entry(const int32_t *n, uint32_t e) {
    return n[2] ? e / (uint32_t)n[2] : e % (uint32_t)n[1];
}

/* n: rows, elements of a row, elements of a channel (0: an entry an element of a row), weight, bias. f: eps */
static void sp_row_norm(const sp_args *a) {
    const sp_view *x = &sp_views[a->r[0]], *w = &sp_views[a->w[0]];
    const int32_t *n = a->n;
    uint32_t b, r, i, len = (uint32_t)n[1];
    for (b = 0; b < SP_BATCH; b++)
        for (r = 0; r < (uint32_t)n[0]; r++) {
            float mean, scale;
            sp_statistics(x, b, r * len, len, a->f[0], &mean, &scale);
            for (i = r * len; i < (r + 1u) * len; i++) {
                float y = (sp_get(x, b, i) - mean) * scale;
                if (n[3]) y *= sp_get(&sp_views[a->r[1]], 0, sp_entry(n, i));
                if (n[4]) y += sp_get(&sp_views[a->r[1 + n[3]]], 0, sp_entry(n, i));
                sp_put(w, b, i, y);
            }
        }
}

static void sp_row_norm_grad(const sp_args *a) {
    const sp_view *dy = &sp_views[a->r[0]], *x = &sp_views[a->r[1]];
    const int32_t *n = a->n;
    uint32_t q, b, k, i, len = (uint32_t)n[1];
    for (q = 0; q < a->writes; q++) {
        const sp_view *w = &sp_views[a->w[q]];
        SP_EACH_RANGE(w, b, k) {
            uint32_t m, e = sp_range(w, k, &m), end = e + m;
            while (e < end) {
                uint32_t first = e - e % len, stop = sp_min(first + len, end);
                float mean, scale, sum = 0.0f, dot = 0.0f;
                sp_statistics(x, b, first, len, a->f[0], &mean, &scale);
                for (i = first; i < first + len; i++) {
                    float g = sp_get(dy, b, i);
                    if (n[3]) g *= sp_get(&sp_views[a->r[2]], 0, sp_entry(n, i));
                    sum += g;
                    dot += g * ((sp_get(x, b, i) - mean) * scale);
                }
                sum /= (float)len;
                dot /= (float)len;
                for (; e < stop; e++) {
                    float g = sp_get(dy, b, e);
                    if (n[3]) g *= sp_get(&sp_views[a->r[2]], 0, sp_entry(n, e));
                    sp_put(w, b, e, (g - sum - (sp_get(x, b, e) - mean) * scale * dot) * scale);
                }
            }
        }
    }
}

/* n as above, and the number of parameters. */
static void sp_row_norm_grad_weight(const sp_args *a) {
    const sp_view *dy = &sp_views[a->r[0]], *x = &sp_views[a->r[1]], *w = &sp_views[a->w[0]];
    const int32_t *n = a->n;
    uint32_t b, r, c, i, j, len = (uint32_t)n[1], count = (uint32_t)n[5], step = n[2] ? 1u : 16u;
    for (c = 0; c < count; c += step) {
        float sum[16], mean, scale;
        uint32_t m = sp_min(step, count - c);
        for (j = 0; j < 16u; j++) sum[j] = 0.0f;
        for (b = 0; b < SP_BATCH; b++) {
            if (n[2]) {
                uint32_t first = c * (uint32_t)n[2];
                sp_statistics(x, b, first - first % len, len, a->f[0], &mean, &scale);
                for (i = first; i < first + (uint32_t)n[2]; i++)
                    sum[0] += sp_get(dy, b, i) * ((sp_get(x, b, i) - mean) * scale);
                continue;
            }
            for (r = 0; r < (uint32_t)n[0]; r++) {
                sp_statistics(x, b, r * len, len, a->f[0], &mean, &scale);
                for (j = 0; j < m; j++) {
                    i = r * len + c + j;
                    sum[j] += sp_get(dy, b, i) * ((sp_get(x, b, i) - mean) * scale);
                }
            }
        }
        for (j = 0; j < m; j++) sp_put(w, 0, c + j, sum[j]);
    }
}

/* Frozen statistics. n: elements of a channel, weight, bias. f: eps. Reads x, mean, var, weight, bias. */
static void sp_batch_norm(const sp_args *a) {
    const sp_view *x = &sp_views[a->r[0]], *w = &sp_views[a->w[0]];
    uint32_t b, k, j, inner = (uint32_t)a->n[0];
    SP_EACH_RANGE(w, b, k) {
        uint32_t n, i = sp_range(w, k, &n);
        while (n) {
            uint32_t c = i / inner, m = sp_min(n, inner - i % inner);
            float mean = sp_get(&sp_views[a->r[1]], 0, c);
            float scale = 1.0f / sqrtf(sp_get(&sp_views[a->r[2]], 0, c) + a->f[0]), shift = 0.0f;
            if (a->n[1]) scale *= sp_get(&sp_views[a->r[3]], 0, c);
            if (a->n[2]) shift = sp_get(&sp_views[a->r[3 + a->n[1]]], 0, c);
            for (j = 0; j < m; j++) sp_put(w, b, i + j, (sp_get(x, b, i + j) - mean) * scale + shift);
            i += m;
            n -= m;
        }
    }
}

/* Reads dy, var, weight. */
static void sp_batch_norm_grad(const sp_args *a) {
    const sp_view *dy = &sp_views[a->r[0]];
    uint32_t q, b, k, j, inner = (uint32_t)a->n[0];
    for (q = 0; q < a->writes; q++) {
        const sp_view *w = &sp_views[a->w[q]];
        SP_EACH_RANGE(w, b, k) {
            uint32_t n, i = sp_range(w, k, &n);
            while (n) {
                uint32_t c = i / inner, m = sp_min(n, inner - i % inner);
                float scale = 1.0f / sqrtf(sp_get(&sp_views[a->r[1]], 0, c) + a->f[0]);
                if (a->n[1]) scale *= sp_get(&sp_views[a->r[2]], 0, c);
                for (j = 0; j < m; j++) sp_put(w, b, i + j, sp_get(dy, b, i + j) * scale);
                i += m;
                n -= m;
            }
        }
    }
}

/* Reads dy, x, mean, var; n: elements of a channel, channels that are kept. */
static void sp_batch_norm_grad_weight(const sp_args *a) {
    const sp_view *dy = &sp_views[a->r[0]], *x = &sp_views[a->r[1]];
    uint32_t b, c, i, inner = (uint32_t)a->n[0];
    for (c = 0; c < (uint32_t)a->n[1]; c++) {
        float mean = sp_get(&sp_views[a->r[2]], 0, c), total = 0.0f;
        for (b = 0; b < SP_BATCH; b++)
            for (i = c * inner; i < (c + 1u) * inner; i++) total += (sp_get(x, b, i) - mean) * sp_get(dy, b, i);
        sp_put(&sp_views[a->w[0]], 0, c, total * (1.0f / sqrtf(sp_get(&sp_views[a->r[3]], 0, c) + a->f[0])));
    }
}

/* A slope a channel below zero. n: elements that share one, slopes that are kept. */
static void sp_prelu(const sp_args *a) {
    const sp_view *x = &sp_views[a->r[0]], *w = &sp_views[a->w[0]];
    uint32_t b, k, j, inner = (uint32_t)a->n[0];
    SP_EACH_RANGE(w, b, k) {
        uint32_t n, i = sp_range(w, k, &n);
        for (j = 0; j < n; j++) {
            float v = sp_get(x, b, i + j);
            sp_put(w, b, i + j, v > 0.0f ? v : sp_get(&sp_views[a->r[1]], 0, (i + j) / inner) * v);
        }
    }
}

/* Reads dy, a mask or x, weight. */
static void sp_prelu_grad(const sp_args *a) {
    uint32_t q, b, k, j, inner = (uint32_t)a->n[0];
    for (q = 0; q < a->writes; q++) {
        const sp_view *w = &sp_views[a->w[q]];
        SP_EACH_RANGE(w, b, k) {
            uint32_t n, i = sp_range(w, k, &n);
            for (j = 0; j < n; j++) {
                float d = sp_get(&sp_views[a->r[0]], b, i + j);
                if (!(sp_get(&sp_views[a->r[1]], b, i + j) > 0.0f))
                    d *= sp_get(&sp_views[a->r[2]], 0, (i + j) / inner);
                sp_put(w, b, i + j, d);
            }
        }
    }
}

static void sp_prelu_grad_weight(const sp_args *a) {
    uint32_t b, c, i, inner = (uint32_t)a->n[0];
    for (c = 0; c < (uint32_t)a->n[1]; c++) {
        float total = 0.0f;
        for (b = 0; b < SP_BATCH; b++)
            for (i = c * inner; i < (c + 1u) * inner; i++) {
                float x = sp_get(&sp_views[a->r[1]], b, i);
                if (x < 0.0f) total += x * sp_get(&sp_views[a->r[0]], b, i);
            }
        sp_put(&sp_views[a->w[0]], 0, c, total);
    }
}

/* Softmax along an axis; n: outer extent, extent, inner extent, whether of it the logarithm is taken. */
static void sp_softmax(const sp_args *a) {
    const sp_view *x = &sp_views[a->r[0]], *w = &sp_views[a->w[0]];
    uint32_t b, o, i, k, n = (uint32_t)a->n[1], inner = (uint32_t)a->n[2];
    for (b = 0; b < SP_BATCH; b++)
        for (o = 0; o < (uint32_t)a->n[0]; o++)
            for (i = 0; i < inner; i++) {
                uint32_t first = o * n * inner + i;
                float most = sp_get(x, b, first), total = 0.0f;
                for (k = 1; k < n; k++) {
                    float v = sp_get(x, b, first + k * inner);
                    if (v > most) most = v;
                }
                for (k = 0; k < n; k++) total += expf(sp_get(x, b, first + k * inner) - most);
                for (k = 0; k < n; k++) {
                    float v = sp_get(x, b, first + k * inner) - most;
                    sp_put(w, b, first + k * inner, a->n[3] ? v - logf(total) : expf(v) / total);
                }
            }
}

static void sp_softmax_grad(const sp_args *a) {
    const sp_view *dy = &sp_views[a->r[0]], *y = &sp_views[a->r[1]];
    uint32_t q, b, o, i, k, n = (uint32_t)a->n[1], inner = (uint32_t)a->n[2];
    for (q = 0; q < a->writes; q++) {
        const sp_view *w = &sp_views[a->w[q]];
        uint32_t count, lo = sp_range(w, 0, &count);
        for (b = 0; b < SP_BATCH; b++)
            for (o = 0; o < (uint32_t)a->n[0]; o++)
                for (i = 0; i < inner; i++) {
                    uint32_t first = o * n * inner + i;
                    float total = 0.0f;
                    for (k = 0; k < n; k++) {
                        float d = sp_get(dy, b, first + k * inner);
                        total += a->n[3] ? d : d * sp_get(y, b, first + k * inner);
                    }
                    for (k = 0; k < n; k++) {
                        uint32_t e = first + k * inner;
                        float d, v;
                        if (e < lo || e >= lo + count) continue;
                        d = sp_get(dy, b, e);
                        v = sp_get(y, b, e);
                        sp_put(w, b, e, a->n[3] ? d - expf(v) * total : (d - total) * v);
                    }
                }
    }
}

/* Rows of a table; n: ids of a sample, rows of the table, elements of a row. */
static void sp_embedding(const sp_args *a) {
    uint32_t b, i, d, dim = (uint32_t)a->n[2];
    for (b = 0; b < SP_BATCH; b++)
        for (i = 0; i < (uint32_t)a->n[0]; i++) {
            uint32_t row = sp_min((uint32_t)sp_get(&sp_views[a->r[0]], b, i), (uint32_t)a->n[1] - 1u);
            for (d = 0; d < dim; d++)
                sp_put(&sp_views[a->w[0]], b, i * dim + d, sp_get(&sp_views[a->r[1]], b, row * dim + d));
        }
}

static void sp_embedding_rows(const sp_args *a, uint32_t first, uint32_t last) {
    uint32_t b, i, d, r, dim = (uint32_t)a->n[2];
    for (r = 0; r < (uint32_t)a->n[1]; r++)
        for (d = 0; d < dim; d++) {
            float total = 0.0f;
            for (b = first; b < last; b++)
                for (i = 0; i < (uint32_t)a->n[0]; i++)
                    if ((uint32_t)sp_get(&sp_views[a->r[1]], b, i) == r)
                        total += sp_get(&sp_views[a->r[0]], b, i * dim + d);
            sp_put(&sp_views[a->w[0]], first, r * dim + d, total);
        }
}

/* Of a table that is an activation each sample has a gradient of its own. */
static void sp_embedding_grad_weight(const sp_args *a) {
    uint32_t b, each = sp_views[a->w[0]].batch;
    if (!each) sp_embedding_rows(a, 0, SP_BATCH);
    for (b = 0; each && b < SP_BATCH; b++) sp_embedding_rows(a, b, b + 1u);
}
